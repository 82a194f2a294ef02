// Writes a camera's image into the lower half of a texture, and its depth into the upper half: a
// number of 2 mm along the camera's axis in the bytes red (low) and green; 0 where nothing stands.
Shader "worldbridge/World Guide"
{
    Properties
    {
        _MainTex ("Image", 2D) = "black" {}
    }

    SubShader
    {
        Pass
        {
            Cull Off
            ZWrite Off
            ZTest Always

            CGPROGRAM
            #pragma vertex vert_img
            #pragma fragment Fragment
            #pragma target 3.0
            #include "UnityCG.cginc"

            sampler2D _MainTex;
            sampler2D_float _CameraDepthTexture;
            float2 _NearFar; // metres: the camera's clipping planes
            float _Reach; // metres: what is farther is the sky

            float4 Fragment(v2f_img input) : SV_Target
            {
                bool lower = input.uv.y < 0.5;
                float2 uv = float2(input.uv.x, input.uv.y * 2.0 - (lower ? 0.0 : 1.0));
                float4 color = tex2D(_MainTex, uv);
                #if !defined(UNITY_COLORSPACE_GAMMA)
                color.rgb = LinearToGammaSpace(color.rgb);
                #endif
                float nearness = tex2D(_CameraDepthTexture, uv).r; // 1 at the near plane, 0 at the far one
                #if !defined(UNITY_REVERSED_Z)
                nearness = 1.0 - nearness;
                #endif
                float metres = _NearFar.x * _NearFar.y / lerp(_NearFar.x, _NearFar.y, nearness);
                float number = nearness > 0.0 && metres < _Reach ? round(metres / 0.002) : 0.0;
                float high = floor(number / 256.0);
                float4 digits = float4(number - 256.0 * high, high, 0.0, 255.0) / 255.0;
                return lower ? float4(color.rgb, 1.0) : digits;
            }
            ENDCG
        }
    }
}
