// What the package's shaders use of Unity's UnityCG.cginc, in the project's own words, for compile checks.
#define fixed4 float4
#define sampler2D Texture2D<float4>
#define sampler2D_float Texture2D<float4>
#define tex2D(texture, uv) texture.Sample(AnySampler, uv)
#define tex2Dlod(texture, at) texture.SampleLevel(AnySampler, (at).xy, (at).w)
#define UNITY_NEAR_CLIP_VALUE 1.0
#define UNITY_REVERSED_Z 1
#define UNITY_MATRIX_VP unity_MatrixVP
#define UNITY_MATRIX_I_V unity_MatrixInvV

SamplerState AnySampler;

cbuffer Camera
{
    float4x4 unity_CameraInvProjection;
    float4x4 unity_MatrixVP;
    float4x4 unity_MatrixInvV;
    float4 _ProjectionParams;
    float3 _WorldSpaceCameraPos;
};

struct appdata_base
{
    float4 vertex : POSITION;
};

struct v2f_img
{
    float4 pos : SV_POSITION;
    float2 uv : TEXCOORD0;
};

v2f_img vert_img(appdata_base input)
{
    v2f_img output;
    output.pos = input.vertex;
    output.uv = input.vertex.xy;
    return output;
}

float3 LinearToGammaSpace(float3 color)
{
    return pow(max(color, 0.0), 1.0 / 2.2);
}
